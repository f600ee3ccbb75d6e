"""One file a task kind; `registry.py` names them."""
