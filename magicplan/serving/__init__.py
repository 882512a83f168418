"""One replica of a server under traffic: lengths, step times, steady state, latency, simulation."""
