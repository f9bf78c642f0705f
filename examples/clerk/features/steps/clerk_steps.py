"""
The steps that come with harken, and one of the clerk's own.
"""

from __future__ import annotations

from behave import when

import harken.testing.behave  # noqa: F401, importing it defines its steps


@when("the clerk works through its plan")
def works(context):
    context.clerk.run([("search", {"query": "invoices"})], run_id="r-1")
