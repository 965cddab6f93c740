"""Arguments in, text out. The only place that knows both the walk and the world."""
