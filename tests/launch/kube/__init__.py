"""A one-machine Kubernetes for the tests: the official client talks to it, and pods are local processes.

Belongs here: the API server (``api``, ``registry``, ``store``), the controllers (``deployments``, ``jobs``,
``collector``, ``scheduler``, ``nodes``), the kubelet (``kubelet``, ``container``), faults that a plan names
(``faults``), the harness that tests use (``harness``). Only the kinds, fields and verbs that our launcher needs;
what is not emulated is refused loudly where silence would make a test lie. Does not belong here: anything of the
product; checks of the launcher.

Not emulated: TLS and RBAC (there is a token, and what the fault plan denies), DNS (use a Service's address), limits of
cpu and memory, network and security policies, server-side apply, pod affinity, exec, CronJobs that start Jobs, and
whatever no kind or field here names.

Texts, reasons, order and timing follow a real v1.36 API server as far as our code can see them. No limit of
cpu or memory is enforced. Times that are Kubernetes' own (back-offs, tolerations, lost nodes) are multiplied by
``--scale``; times that a manifest or a fault names are literal, except the pauses of probes.
"""
