"""The pre-flight: what would spoil a training run, found before it starts."""
