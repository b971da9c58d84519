"""The page for people: jobs, their logs, curves and files, buckets, faults and the budget.

Server-side HTML that works without JavaScript, except that it then does not update by itself.
Everything that it shows is text: nothing of a job or a bucket is ever interpreted.
"""
