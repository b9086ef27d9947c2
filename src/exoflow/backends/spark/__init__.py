"""DataFrames of Spark as Refs, and the session that holds them. The one place in this package that imports pyspark."""
