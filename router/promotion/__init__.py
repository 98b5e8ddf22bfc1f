"""Which adapter answers for a model: one pointer per engine, which every api process follows."""
