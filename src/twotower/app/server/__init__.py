"""Answers over HTTP with a bundle: small, torch-free, safe by default (extra `serve`).

A request goes connections -> gate -> routes -> gathering -> answering, and back. The gate refuses what is not to be worked for; gathering makes
batches of what comes at once; a request takes one reference to one version of one model at its start (`versions`), so no answer is of two.
"""
