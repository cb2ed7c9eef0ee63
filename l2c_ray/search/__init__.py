"""The Optuna study: what is searched, who runs which trial, and which trials are on the frontier. Imports no ray."""
