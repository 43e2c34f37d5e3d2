"""Getting the published data sets, lexicons and models onto this machine (`ctsm fetch`)."""
