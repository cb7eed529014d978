"""Whole backbones: LITv2 beside those of other papers."""
