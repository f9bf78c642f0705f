"""
Adapters: one module for each agent framework, imported only by who uses that framework.
"""
