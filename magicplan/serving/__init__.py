"""A replica under traffic, and fleets of them: a short screen, and the simulation that decides."""
