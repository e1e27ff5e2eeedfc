"""Does it run? Interpreter, libraries, symbol versions, scripts, links, platform, over a view of files."""
