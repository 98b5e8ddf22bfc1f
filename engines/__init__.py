"""The engines: each owns one model's weights and answers the requests of `engines.base`."""
