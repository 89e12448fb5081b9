"""Studies that a file declares: nets, data, settings and seeds by recipes, trained by a queue, judged by claims."""
