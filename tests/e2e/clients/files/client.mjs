// The JavaScript client: `node client.mjs STEP NAMESPACE` runs one step and prints what it saw.

import { PassThrough, Writable } from 'node:stream';
import * as k8s from '@kubernetes/client-node';

const [step, namespace] = process.argv.slice(2);
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const configMap = (name, data) => ({ metadata: { name, labels: { by: 'javascript' } }, data });

// Collects what is written, and tells who waits for a text.
class Collected extends Writable {
    text = '';
    waiting = [];
    _write(chunk, _encoding, done) {
        this.text += chunk;
        this.waiting = this.waiting.filter(([wanted, tell]) => !(this.text.includes(wanted) && (tell(), true)));
        done();
    }
    seen(wanted) {
        if (this.text.includes(wanted)) return Promise.resolve();
        return new Promise((tell) => this.waiting.push([wanted, tell]));
    }
}

async function pod(name, script) {
    await core.createNamespacedPod({ namespace, body: {
        metadata: { name },
        spec: {
            terminationGracePeriodSeconds: 0,
            containers: [{ name, image: 'busybox', imagePullPolicy: 'IfNotPresent', command: ['sh', '-c', script] }],
        },
    } });
    await new Promise((resolve, reject) => {
        new k8s.Watch(config).watch(
            `/api/v1/namespaces/${namespace}/pods`, { fieldSelector: `metadata.name=${name}` },
            (_type, object) => { if (object.status.phase === 'Running') resolve(); },
            (error) => reject(error ?? new Error('the watch has ended')),
        ).catch(reject);
    });
}

const steps = {
    async crud() {
        await core.createNamespacedConfigMap({ namespace, body: configMap('one', { colour: 'blue' }) });
        const read = await core.readNamespacedConfigMap({ name: 'one', namespace });
        console.log('read', read.data);
        read.data.size = '3';
        const replaced = await core.replaceNamespacedConfigMap({ name: 'one', namespace, body: read });
        console.log('replaced', replaced.data);
        try {
            await core.replaceNamespacedConfigMap({ name: 'one', namespace, body: read });
        } catch (error) {
            console.log('stale', error.code);
        }
        const patched = await core.patchNamespacedConfigMap(
            { name: 'one', namespace, body: [{ op: 'remove', path: '/data/size' }] },
            k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.JsonPatch),
        );
        console.log('patched', patched.data);
        const merged = await core.patchNamespacedConfigMap(
            { name: 'one', namespace, body: { data: { colour: null, size: '4' } } },
            k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch),
        );
        console.log('merged', merged.data);
        const objects = k8s.KubernetesObjectApi.makeApiClient(config);
        const applied = await objects.patch(
            { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'one', namespace }, data: { by: 'apply' } },
            undefined, undefined, 'javascript', true, k8s.PatchStrategy.ServerSideApply,
        );
        console.log('applied', applied.data, applied.metadata.managedFields.some((one) => one.manager === 'javascript'));
        const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: 'by=javascript' });
        console.log('listed', listed.items.map((item) => item.metadata.name));
        await core.deleteNamespacedConfigMap({ name: 'one', namespace });
        try {
            await core.readNamespacedConfigMap({ name: 'one', namespace });
        } catch (error) {
            console.log('gone', error.code);
        }
    },

    async informer() {
        const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'by=javascript' });
        await core.createNamespacedConfigMap({ namespace, body: configMap('a', { key: '1' }) });
        const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, 'by=javascript');
        const seen = [];
        let tell = () => {};
        const reached = (count) => new Promise((resolve) => {
            tell = () => { if (seen.length >= count) resolve(); };
            tell();
        });
        for (const verb of ['add', 'update', 'delete']) {
            informer.on(verb, (object) => { seen.push(`${verb} ${object.metadata.name}`); tell(); });
        }
        informer.on('error', (error) => console.log('error', error.message));
        await informer.start();
        await reached(1);
        await core.createNamespacedConfigMap({ namespace, body: configMap('b', {}) });
        await reached(2);
        const changed = configMap('a', { key: '2' });
        await core.replaceNamespacedConfigMap({ name: 'a', namespace, body: changed });
        await reached(3);
        await core.deleteNamespacedConfigMap({ name: 'b', namespace });
        await reached(4);
        console.log(seen.join(', '));
        console.log('cached', informer.get('a', namespace).data, informer.list(namespace).length);
        await informer.stop();
    },

    async exec() {
        await pod('box', 'sleep 1000000');
        const [out, err, input] = [new Collected(), new Collected(), new PassThrough()];
        const ended = new Promise((resolve, reject) => {
            new k8s.Exec(config).exec(
                namespace, 'box', 'box', ['sh', '-c', 'read line; echo got $line; echo problem >&2; exit 4'],
                out, err, input, false, resolve,
            ).catch(reject);
        });
        input.write('typed\n');
        const status = await ended;
        await Promise.all([out.seen('typed'), err.seen('problem')]);
        console.log('exec', JSON.stringify(out.text), JSON.stringify(err.text), status.reason, status.details.causes[0].message);
        const copied = new Collected();
        const forward = new k8s.PortForward(config);
        await pod('web', 'echo hello > /tmp/index.html; cd /tmp; busybox httpd -f -p 8080');
        const request = new PassThrough();
        const socket = await forward.portForward(namespace, 'web', [8080], copied, null, request);
        request.write('GET / HTTP/1.0\r\n\r\n');
        await copied.seen('hello');
        console.log('forwarded', copied.text.split('\r\n')[0]);
        (typeof socket === 'function' ? socket() : socket)?.close();
    },

    async log() {
        await pod('talker', 'for i in 1 2 3; do echo line $i; sleep 0.2; done; sleep 1000000');
        const output = new Collected();
        const controller = await new k8s.Log(config).log(namespace, 'talker', 'talker', output, { follow: true, pretty: false });
        await output.seen('line 3');
        console.log('followed', JSON.stringify(output.text));
        controller.abort();
    },
};

try {
    await steps[step]();
    process.exit(0);
} catch (error) {
    console.log('failed', error);
    process.exit(1);
}
