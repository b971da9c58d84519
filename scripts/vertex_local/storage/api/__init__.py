"""The API of Cloud Storage over HTTP; what it keeps is in the modules above this folder."""
