// Checks the objects of KEDA and of the Prometheus operator in a JSON file against these projects' own schemas: `node custom-objects.mjs FILE`, in a folder that has them.
import { readFileSync } from "node:fs";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const models = { PodMonitor, ScaledObject, ServiceMonitor };
for (const object of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  const Model = models[object.kind];
  if (!Model) throw new Error(`no schema for the kind ${object.kind}`);
  new Model(object).validate();
  console.log(`${object.kind} ${object.metadata.name} is valid`);
}
