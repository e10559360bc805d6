using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .worker),
    (name = "disk", disk = (path = "FOLDER", writable = true)),
  ],
  sockets = [(name = "http", address = "ADDRESS", http = (), service = "main")],
);

const worker :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  compatibilityDate = "2025-10-01",
  durableObjectNamespaces = [
    (className = "Peer", uniqueKey = "peer", enableSql = true),
  ],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [(name = "PEER", durableObjectNamespace = "Peer")],
);
