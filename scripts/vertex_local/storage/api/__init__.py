"""The API of Cloud Storage over HTTP; the modules above this folder store the data."""
