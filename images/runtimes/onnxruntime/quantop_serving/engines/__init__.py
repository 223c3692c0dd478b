"""The engines that this server can run, each imported only when it is chosen."""
