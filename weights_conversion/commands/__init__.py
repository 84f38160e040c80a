"""What `python -m weights_conversion` does. These modules use the library; the tables beside them do not.

Source: original work.
"""
