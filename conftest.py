"""Loads the plugin from a checkout that is not installed; pytester for the plugin's own tests."""

pytest_plugins = ["pytester"]
