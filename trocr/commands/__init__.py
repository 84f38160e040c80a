"""The commands of `trocr`, one module each; a module is imported when its command is called.

Source: original work.
"""
