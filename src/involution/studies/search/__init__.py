"""Architecture search with involution in its space: the nets, how they are judged, and what came of it."""
