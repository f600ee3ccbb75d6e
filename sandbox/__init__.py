"""Runs untrusted programs, and trusted code over untrusted text, where neither can reach anything.

Knows code, limits and results; knows nothing of rewards, queues or models, and imports nothing of this project.
"""
