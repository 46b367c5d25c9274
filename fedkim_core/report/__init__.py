"""One self-contained page and one terminal table from a run folder."""

from fedkim_core.report.page import write_report
from fedkim_core.report.terminal import result_table

__all__ = ["result_table", "write_report"]
