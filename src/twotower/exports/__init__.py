"""What leaves the house: trained towers as ONNX, and finished bundles in the forms that others read.

Importing it loads nothing: `exports.towers` needs torch, `exports.formats` does not.
"""
