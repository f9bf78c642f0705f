"""
The clerk that the features are about.
"""

from __future__ import annotations

from clerk import Clerk

from harken import Bus
from harken.testing.behave import listen


def before_scenario(context, scenario):
    bus = Bus()
    context.add_cleanup(bus.close)
    tools = {"search": lambda query="": f"found {query}", "pay": lambda invoice: invoice}
    context.clerk = Clerk(bus, tools, forbidden=["pay"])
    listen(context, bus, context.clerk.call)
