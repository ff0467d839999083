"""The reports of all published runs as one static folder, with an index that says what each run asks and finds."""
