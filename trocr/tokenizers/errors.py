"""The one error of the tokenizers.

Source: original work.
"""


class TokenizerError(ValueError):
    """A tokenizer file, a text or an id cannot be used.

    The message names the file or the value, what was found, what was expected, and what to do.
    """
