"""Stand-ins for services that tests cannot reach. Each says loudly that it is a fake."""
