"""The federation: algorithms, schedulers, transports and the round loop that binds them."""
