"""The doors: the command line, the server and the web page."""
