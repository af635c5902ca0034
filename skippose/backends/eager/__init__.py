"""The backend of any network: its own modules, each convolution in its step form."""
