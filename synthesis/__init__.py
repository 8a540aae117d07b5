"""A request on its way: planned, spoken, judged, shaped, encoded."""
