"""Pure functions that build the manifests of an object's children, one kind per module."""
