"""A report on kept exchanges: numbers (`numbers.py`), and the page that shows them, with plots (`page.py`)."""
