"""Advice on a table: what to use, whether auxiliary tasks help, which of them, and which rows are in the way."""

from mtlkit.advice._advice import Advice, advise
from mtlkit.advice._models import Model, load_advised
from mtlkit.advice._read import Refused, read

__all__ = ["Advice", "Model", "Refused", "advise", "load_advised", "read"]
