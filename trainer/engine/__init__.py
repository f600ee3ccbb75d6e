"""Engines that sample completions from the policy's weights, behind one protocol."""
