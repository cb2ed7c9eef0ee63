"""Training of routers on one worker, in plain torch: two objectives, each with a learner in a folder of its own."""
