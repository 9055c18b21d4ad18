"""Search over embedded pictures: the index folder, exact search, the page."""
