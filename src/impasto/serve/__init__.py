"""`impasto serve`: an OpenAI-compatible API and a web page over one engine, which draws for both.

batching     one thread that owns the models, a bounded queue, micro-batches
work         what the thread does: drawing, describing, writing, anything else
engine       models by name, loading, checks, the safety filter
schemas, errors, guard, limits, store, metrics, api    HTTP
page, page_work    the web page, and what its buttons do (page_queue, scratch)
running, command   the process
"""
