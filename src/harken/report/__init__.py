"""
Reports: what an audit log says about a run, as one page that opens by a double click.

.. code-block:: python

    from pathlib import Path

    import harken.trail
    from harken.report import html
    from harken.trail import Filter

    with harken.trail.open("audit.jsonl") as trail:
        page = html(
            trail,
            Filter(families=(trail.runs()[0].run_id,)),
            verification=harken.trail.verify("audit.jsonl"),
        )
    Path("first-run.html").write_text(page, encoding="utf-8")

The page is complete in itself and asks for nothing from any network: its security policy permits
exactly its own script and its own style. What the log holds is shown as text, whatever it is.
"""

from __future__ import annotations

from harken.report.page import LIMIT, html

__all__ = ["LIMIT", "html"]
