"""What a request costs that goes through Outlay rather than straight to the model, beside other proxies, in one run on one machine."""
