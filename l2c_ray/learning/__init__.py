"""Routers, their objectives and training loops on one worker, in plain torch."""
