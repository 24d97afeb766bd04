"""Looking inside a model: what words and boxes attend to, as numbers, pictures and pages."""
