"""Turns a kept delta into a folder to be used elsewhere, and answers files of rows with one."""
