"""The HTTP API's room. Empty until the catalog is served over HTTP; the command line answers the same questions."""
