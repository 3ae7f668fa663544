"""Families that `transformers` has no class for, as plain NumPy loops: one file each."""

from tests.parity.equations import baichuan, grok, internlm2

EQUATIONS = {"baichuan": baichuan.SOURCE, "grok": grok.SOURCE, "internlm2": internlm2.SOURCE}
