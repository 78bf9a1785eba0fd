"""Parts that tests share: a real S3 server, made-up runs. Nothing here is imported by the product."""
