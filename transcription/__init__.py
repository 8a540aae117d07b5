"""Speech becomes text: recognisers behind one protocol, and the speakers of a recording."""
