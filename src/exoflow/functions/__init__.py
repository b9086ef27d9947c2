"""Functions elsewhere as tasks: ``aws_lambda`` and ``http_function``. ``remote`` is what all of them share."""
